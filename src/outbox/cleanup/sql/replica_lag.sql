-- Bytes of WAL that the slowest replica has still to replay, null without replicas; and how many of them this role may
-- not see (that takes pg_read_all_stats). In bytes, because replay_lag says nothing of a replica whose replay stands
-- still. Subscribers of logical replication are left out: an idle one does not confirm what it has no interest in.
-- Changes nothing.
select
  max(pg_wal_lsn_diff(pg_current_wal_lsn(), r.replay_lsn)) filter (where r.state in ('streaming', 'catchup'))::bigint as lag,
  count(*) filter (where r.state is null) as hidden
from pg_stat_replication r
where not exists (select 1 from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')
