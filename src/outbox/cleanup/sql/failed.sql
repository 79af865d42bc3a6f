-- Looks at the next FAILED rows by id and deletes those that nobody waits for and that are old. $1 bigint: begin after
-- this id. $2 bigint: highest id. $3 bigint: most rows to look at. $4 float8: age in seconds since the failure. An
-- event that has failed by its outcome in outbox_outcomes, because its row refuses to be changed, goes by the same
-- rule, and its outcome with it; one that was given up by its outcome is not FAILED. A row stays while its key is held,
-- whoever holds it: the rows behind it wait for a decision about it. It stays while its dead letter is still to be
-- written. A row that does not say since when it has failed (somebody set the status by hand) counts from now on, and
-- that is noted: its creation would make an old event go at once, before anybody has looked at it. Returns the last id
-- and the number of rows looked at, and the number deleted. Run again, it finds the rest.
with failed as materialized (
  (select id, shard, outbox_key_of(partition_key, aggregate_id) as key, failed_at, dead_letter_to, null::uuid as by_outcome
    from outbox_events
    where status = 'FAILED' and id > $1 and id <= $2 and id not in (select id from outbox_outcomes where status = 'DISCARDED')
    order by id limit $3)
  union all
  -- A row of another event is left to outcomes/sql/forget.sql.
  (select o.id, e.shard, e.key, o.at, o.dead_letter_to, o.event_id
    from (
      select id, event_id, at, dead_letter_to from outbox_outcomes
      where status = 'FAILED' and id > $1 and id <= $2
      order by id limit $3
    ) o
    left join lateral (
      select w.event_id, w.shard, outbox_key_of(w.partition_key, w.aggregate_id) as key from outbox_events w where w.id = o.id offset 0
    ) e on e.event_id = o.event_id)
),
seen as materialized (
  select id, shard, key, by_outcome, failed_at is null as undated,
    coalesce(failed_at, now()) <= now() - make_interval(secs => $4) and dead_letter_to is null as due
  from failed
  order by id limit $3
),
doomed as materialized (
  select e.id
  from seen s join outbox_events e on e.id = s.id
  -- Asked again of the row that was locked: a retry may have been faster.
  where s.due
    and case
      when s.by_outcome is null then e.status || '' = 'FAILED' and e.dead_letter_to is null
        and coalesce(e.failed_at, now()) <= now() - make_interval(secs => $4)
      else e.event_id = s.by_outcome and e.status || '' in ('PENDING', 'HELD')
        and exists (select 1 from outbox_outcomes o where o.id = e.id and o.status = 'FAILED' and o.dead_letter_to is null)
    end
    and not exists (select 1 from outbox_held_keys h where h.first_id = s.id)
    and not exists (
      select 1 from outbox_held_keys h
      where h.shard = s.shard and h.partition_key is not null and md5(h.partition_key) = md5(s.key))
    and not exists (select 1 from outbox_shards o where s.id = any(o.batch_ids))
  for update of e skip locked
),
gone as (
  delete from outbox_events e using doomed d where e.id = d.id returning d.id
),
forgotten as (
  delete from outbox_outcomes o using gone g where o.id = g.id
),
undated as materialized (
  select e.id
  from seen s join outbox_events e on e.id = s.id
  where s.undated and not s.due and e.status || '' = 'FAILED' and e.failed_at is null
  for no key update of e skip locked
),
dated as (
  update outbox_events e set failed_at = now() from undated u where e.id = u.id
)
select
  (select max(id) from seen) as last_id,
  (select count(*) from seen) as seen,
  (select count(*) from gone) as failed
