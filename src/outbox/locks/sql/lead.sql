-- Takes an advisory lock of this outbox for this session. $1 int: its key, see locks.rs. Running it again in the same
-- session does no harm. Other outboxes in the same database have locks of their own, by the oid of a table. Version 0.1
-- takes (28514, $1) for the whole database: that one is shared among us, so that it and we keep each other out.
select case
  when pg_try_advisory_lock_shared(28514, $1::int)
  then pg_try_advisory_lock(hashtextextended('outbox-relay ' || $1::int, 'outbox_shards'::regclass::oid::bigint))
  else false
end as locked
