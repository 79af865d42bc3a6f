-- Whether this transaction may do the scheduled retry; another one may be at it. $1 int: the key, see locks.rs. Held to
-- the end of the transaction. Two locks, for the reason that lead.sql gives.
select case
  when pg_try_advisory_xact_lock_shared(28514, $1::int)
  then pg_try_advisory_xact_lock(hashtextextended('outbox-relay ' || $1::int, 'outbox_shards'::regclass::oid::bigint))
  else false
end as locked
