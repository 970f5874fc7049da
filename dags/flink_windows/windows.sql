SELECT window_start, page, COUNT(*) AS clicks, COUNT(DISTINCT visitor) AS visitors
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(`at`), INTERVAL '1' SECOND * :window_s))
GROUP BY window_start, window_end, page
HAVING COUNT(DISTINCT visitor) >= :minimum_visitors
