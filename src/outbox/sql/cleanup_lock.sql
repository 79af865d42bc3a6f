-- Takes the advisory lock of the one instance that deletes; PostgreSQL drops it with the session. False: another has it.
-- 28514 is the class of our locks: instances have keys from 0 on, -1 is the scheduled retry, -3 partition_lock.sql. Taking it again in
-- the session that has it does no harm.
select pg_try_advisory_lock(28514, -2) as locked
