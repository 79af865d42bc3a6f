-- Takes the advisory lock of the one session that changes the number of shards, as cleanup_lock.sql does for the one that deletes.
select pg_try_advisory_lock(28514, -4) as locked
