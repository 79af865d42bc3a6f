-- Takes the advisory lock of the one instance that looks after partitions, as cleanup_lock.sql does for the one that deletes.
select pg_try_advisory_lock(28514, -3) as locked
