-- Takes the advisory lock of the one instance that deletes; PostgreSQL drops it with the session. False: another has it.
-- 28514 is the class of our locks; instances have keys from 0 on, the scheduled retry has -2. Taking it again in the session that has it does no harm.
select pg_try_advisory_lock(28514, -1) as locked
