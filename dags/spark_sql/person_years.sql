-- Visits with the plan that they were made under.
SELECT
  plans.plan,
  visits.mdvis AS visits,
  visits.hlthg AS is_good,
  visits.hlthf AS is_fair,
  visits.hlthp AS is_poor
FROM visits
JOIN plans
  ON plans.individual_deductible = visits.idp
 AND plans.coinsurance = round(exp(visits.lncoins)) - 1
WHERE visits.disea >= :minimum_diseases
