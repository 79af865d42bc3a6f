-- Less time for the statements of this transaction: a quarter of statement_timeout, but not less than a second, and a
-- wait for a lock ends before that, so that the two are told apart. For the search for an event that takes too long. No
-- parameters. Without a statement_timeout nothing changes. Reads and sets session settings alone.
select set_config('statement_timeout', brief.milliseconds::text, true),
  set_config('lock_timeout', least(brief.milliseconds * 4 / 5, brief.lock)::text, true)
from (
  select least(statement.setting::int, greatest(1000, statement.setting::int / 4)) as milliseconds, lock.setting::int as lock
  from pg_settings statement, pg_settings lock
  where statement.name = 'statement_timeout' and lock.name = 'lock_timeout'
) as brief
where brief.milliseconds > 0
