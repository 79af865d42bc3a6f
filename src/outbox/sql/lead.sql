-- Takes an advisory lock for this session. $1 int: its key, see locks.rs. Running it again in the same session does no harm.
select pg_try_advisory_lock(28514, $1) as locked
