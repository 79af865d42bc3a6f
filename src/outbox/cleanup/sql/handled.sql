-- Deletes old entries of event_handled from a run of pages, found by their place: there is no index on their time, and
-- none is needed, since the caller remembers when there will be something to delete in which pages. $1 bigint: the
-- first page. $2 bigint: the page behind the last. $3 float8: age in seconds. $4 bigint: most rows. Returns the number
-- deleted (as many as allowed: there may be more) and in how many seconds the oldest of the others is old. Run again,
-- it finds the rest. Of two at once the second waits for the first, in the order of the places, and finds them gone.
with gone as (
  delete from event_handled
  where ctid = any(array(
    select ctid from event_handled
    where ctid >= ('(' || $1::bigint || ',0)')::tid and ctid < ('(' || $2::bigint || ',0)')::tid
      and handled_at <= now() - make_interval(secs => $3)
    limit $4))
  returning 1
)
select
  (select count(*) from gone) as handled,
  (select extract(epoch from least(min(handled_at), now() + interval '1 year') + make_interval(secs => $3) - now())::float8
    from event_handled
    where ctid >= ('(' || $1::bigint || ',0)')::tid and ctid < ('(' || $2::bigint || ',0)')::tid
      and handled_at > now() - make_interval(secs => $3)) as next_in
