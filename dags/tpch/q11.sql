-- Q11, important stock: parts that make up more than 0.0001 of the value held in GERMANY.
WITH stock AS (
  SELECT ps_partkey, ps_supplycost * ps_availqty AS held
  FROM partsupp
  JOIN supplier ON s_suppkey = ps_suppkey
  JOIN nation ON n_nationkey = s_nationkey
  WHERE n_name = 'GERMANY'
)
SELECT ps_partkey, sum(held) AS value
FROM stock
GROUP BY ps_partkey
HAVING sum(held) > (SELECT sum(held) * 0.0001 FROM stock)
ORDER BY value DESC
