-- Transactions that have the outbox open for writing, as text ids that are unique while they run; a prepared one has the session -1 in it. Second step of the lock
-- barrier: an INSERT locks the table before it draws an id and keeps the lock to its end, prepared transactions included,
-- so once those of now are gone, every id drawn before is either visible or will never be.
-- The lanes' own updates are left out: they insert nothing, and there is always one.
select distinct l.virtualtransaction
from pg_locks l
left join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'relation' and l.mode = 'RowExclusiveLock'
  and l.database = (select oid from pg_database where datname = current_database())
  and l.relation in (select relid from pg_partition_tree('outbox_events'::regclass) union all select 'outbox_events'::regclass)
  and a.application_name is distinct from 'outbox-relay lane'
