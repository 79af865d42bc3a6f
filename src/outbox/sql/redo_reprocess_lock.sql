-- Whether this transaction may do the scheduled retry; another one may be at it. $1 int: the key, see locks.rs. Held to the end of the
-- transaction.
select pg_try_advisory_xact_lock(28514, $1) as locked
