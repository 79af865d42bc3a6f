-- The next events that wait for held keys, lowest ids first. $1 smallint: shard. $2 bigint[]: first events of the keys.
-- In the same order: $3 text[]: digests of the keys, null for an event without one. $4 bigint[]: most events of each.
-- Changes nothing. An event waits when its row says so, or when its outcome does because the row could not be changed.
select k.first_id, w.id
from unnest($2::bigint[], $3::text[], $4::bigint[]) as k(first_id, key_md5, most)
cross join lateral (
  select id from (
    (select e.id from outbox_events e
      where k.key_md5 is not null and e.status = 'HELD' and e.shard = $1
        and md5(outbox_key_of(e.partition_key, e.aggregate_id)) = k.key_md5
        and not exists (select 1 from outbox_outcomes o where o.id = e.id)
      order by e.id limit k.most)
    union all
    (select o.id from outbox_outcomes o where o.status = 'HELD' and o.key_md5 = k.key_md5 order by o.id limit k.most)
    union all
    select e.id from outbox_events e where k.key_md5 is null and e.id = k.first_id and e.status || '' = 'HELD' and e.shard = $1
      and not exists (select 1 from outbox_outcomes o where o.id = e.id)
    union all
    select o.id from outbox_outcomes o where k.key_md5 is null and o.id = k.first_id and o.status = 'HELD'
  ) either
  order by id limit k.most
) w
order by k.first_id, w.id
