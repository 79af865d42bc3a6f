-- Gives the last partition, {last}, an end, and makes a new last one behind it. Several statements, run as one
-- transaction, so that there is a partition for every id at every moment. The lock makes inserts wait, so it is asked
-- for with little patience; the scan that ATTACH makes is over at once, because the last partition is empty as long as
-- somebody looks after partitions.
set local lock_timeout = '200ms';
lock table outbox_events in access exclusive mode;
alter table outbox_events detach partition {last};
alter table {last} rename to {renamed};
alter table outbox_events attach partition {schema}.{renamed} for values from ({lower}) to ({upper});
create table {schema}.outbox_events_last partition of outbox_events for values from ({upper}) to (maxvalue)
  with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
