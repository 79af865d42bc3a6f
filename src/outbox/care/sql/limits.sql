-- Shorter limits for the statements of this transaction; never longer ones than the session has. $1 int: milliseconds
-- of a statement, $2 int: milliseconds of a wait for a lock. Constraints that are put off to the commit are checked
-- with each statement, so that they fail where the row can be found. Can be repeated.
select set_config(s.name, least(case s.name when 'lock_timeout' then $2::int else $1::int end, nullif(s.reset_val::int, 0))::text, true)
from pg_settings s
where s.name in ('statement_timeout', 'lock_timeout')
