-- Waits until no other session migrates. $1 bigint: key of the lock. Released when the session ends.
select pg_advisory_lock($1)
