-- Whether something about these ids shows at once that they are still needed: a row that is not finished, a key that
-- one of them holds, a batch in flight, or a last row that is too young. Changes nothing. $1 bigint: the lowest id. $2
-- bigint: the highest. $3 float8: age in seconds from which rows go.
select
  exists (
    select 1 from outbox_shards s
    cross join lateral (
      select 1 from outbox_events e
      where e.shard = s.shard and e.status = 'PENDING' and e.id between greatest($1, least(s.done_id, 9223372036854775806) + 1) and $2
        and e.id not in (select id from outbox_outcomes where status in ('PUBLISHED', 'DISCARDED'))
      limit 1
    ) waiting)
  or exists (select 1 from outbox_again where id between $1 and $2)
  or exists (select 1 from outbox_outcomes where status in ('FAILED', 'HELD') and id between $1 and $2)
  or exists (
    select 1 from outbox_events where status = 'HELD' and id between $1 and $2
      and id not in (select id from outbox_outcomes where status = 'DISCARDED'))
  or exists (
    select 1 from outbox_events where status = 'FAILED' and id between $1 and $2
      and id not in (select id from outbox_outcomes where status = 'DISCARDED'))
  -- A dead letter, by which it is known that a FAILED row needs no other attempt.
  or exists (
    select 1 from outbox_events d join outbox_events o on o.id = d.dead_letter_of
    where d.dead_letter_of is not null and d.id between $1 and $2 and o.status || '' = 'FAILED'
      and o.id not in (select id from outbox_outcomes where status = 'DISCARDED'))
  or exists (
    select 1 from outbox_events d join outbox_outcomes o on o.id = d.dead_letter_of
    where d.dead_letter_of is not null and d.id between $1 and $2 and o.status = 'FAILED')
  or exists (select 1 from outbox_held_keys where first_id between $1 and $2)
  or exists (select 1 from outbox_shards s, unnest(s.batch_ids) as in_flight (id) where in_flight.id between $1 and $2)
  or coalesce((
    select least(created_at, published_at) > now() - make_interval(secs => $3)
    from outbox_events where id between $1 and $2 order by id desc limit 1), false) as needed
