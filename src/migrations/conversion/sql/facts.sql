-- What a conversion to partitions begins with. Changes nothing. Returns whether the outbox is partitioned already,
-- about how many rows it has (-1: nobody has counted yet), the last id, and how far the bound is: null without one,
-- false while it is not validated.
select c.relkind = 'p' as partitioned, c.reltuples::bigint as rows,
  (select case when is_called then last_value else 0 end from outbox_events_id_seq) as last_id,
  (select convalidated from pg_constraint where conrelid = c.oid and conname = 'outbox_events_bound') as bound
from pg_class c
where c.oid = 'outbox_events'::regclass
