-- Counts old entries in a run of pages of event_handled. $1 bigint: the first page. $2 bigint: the page behind the
-- last. $3 float8: age in seconds. Changes nothing.
select count(*) as handled from event_handled
where ctid >= ('(' || $1::bigint || ',0)')::tid and ctid < ('(' || $2::bigint || ',0)')::tid
  and handled_at <= now() - make_interval(secs => $3)
