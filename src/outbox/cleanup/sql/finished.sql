-- Looks at the next rows by id and deletes those that are finished and old, all in this one transaction. $1 bigint:
-- begin after this id. $2 bigint: highest id. $3 bigint: most rows to look at. $4 float8: age in seconds from which
-- PUBLISHED rows go, $5 float8: the same for DISCARDED ones, null to keep them. Returns the last id and the number of
-- rows looked at, the lowest id that stays, whether any of them is as old as the lower age (ids are drawn in the order
-- of time, so behind many rows that are all younger there is nothing to delete), and what was deleted. Only rows that
-- will be deleted are locked: a lane passes over a PENDING row that is locked. Run again, it finds the rest. A PENDING
-- row goes that the watermark of its shard had passed when rows were as old as that. A note of ids that were never
-- drawn is of before they began again.
with last as materialized (select case when is_called then last_value else last_value - 1 end as id from outbox_events_id_seq),
passed as materialized (select * from outbox_passed($4) where done_id <= (select id from last)),
seen as materialized (
  select e.id, e.status, coalesce(o.status, e.status) as became,
    least(e.created_at, e.published_at) <= now() - make_interval(secs => least($4::float8, $5::float8)) as old,
    case
      when o.id is not null then case o.status
        when 'PUBLISHED' then o.at <= now() - make_interval(secs => $4)
        when 'DISCARDED' then o.at <= now() - make_interval(secs => $5)
      end
      else case e.status
      when 'PENDING' then e.id <= p.done_id and not exists (select 1 from outbox_again a where a.id = e.id)
      when 'PUBLISHED' then e.published_at <= now() - make_interval(secs => $4)
      when 'DISCARDED' then coalesce(e.failed_at, e.created_at) <= now() - make_interval(secs => $5)
    end end as due
  from outbox_events e
  left join passed p on p.shard = e.shard
  left join outbox_outcomes o on o.id = e.id and o.event_id = e.event_id
    and (e.status in ('PENDING', 'HELD') or (e.status = 'FAILED' and o.status = 'DISCARDED'))
  where e.id > $1 and e.id <= $2
  order by e.id limit $3
),
-- Manifests are in id order: below the first of each there is nothing in flight, which spares reading them.
in_flight as materialized (
  select min(batch_ids[1]) as lowest from outbox_shards
),
doomed as materialized (
  select e.id, s.became
  from seen s join outbox_events e on e.id = s.id
  where s.due and e.status = s.status and (e.dead_letter_to is null or s.became = 'DISCARDED')
    and not exists (select 1 from outbox_held_keys h where h.first_id = s.id)
    -- By its dead letter it is known that a FAILED row needs no other attempt.
    and (e.dead_letter_of is null
      or not exists (select 1 from outbox_events o where o.id = e.dead_letter_of and o.status || '' = 'FAILED'
          and not exists (select 1 from outbox_outcomes u where u.id = o.id and u.event_id = o.event_id and u.status = 'DISCARDED'))
        and not exists (select 1 from outbox_outcomes o where o.id = e.dead_letter_of and o.status = 'FAILED'))
    and (coalesce(s.id < (select lowest from in_flight), true)
      or not exists (select 1 from outbox_shards o where s.id = any(o.batch_ids)))
  for update of e skip locked
),
gone as (
  delete from outbox_events e using doomed d where e.id = d.id returning d.id, d.became
),
forgotten as (
  delete from outbox_outcomes o using gone g where o.id = g.id
)
select
  (select max(id) from seen) as last_id,
  (select count(*) from seen) as seen,
  (select min(id) from seen where due is not true) as first_left,
  (select coalesce(bool_or(old), false) from seen) as any_old,
  (select count(*) from gone where became <> 'DISCARDED') as published,
  (select count(*) from gone where became = 'DISCARDED') as discarded
