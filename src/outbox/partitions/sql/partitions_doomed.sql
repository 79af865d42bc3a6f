-- Tables that were partitions and were taken off to be dropped, known by the comment that mark.sql left.
-- Changes nothing. A partition that somebody else took off has no such comment, and is left alone.
select c.oid::regclass::text as name,
  substring(obj_description(c.oid, 'pg_class') from 'from id (\S+) to') as lower,
  substring(obj_description(c.oid, 'pg_class') from ' to (\d+) ') as upper
from pg_class c
where c.relkind = 'r' and c.relnamespace = (select relnamespace from pg_class where oid = 'outbox_events'::regclass)
  and obj_description(c.oid, 'pg_class') like 'outbox-relay drops this table:%'
  and not exists (select 1 from pg_inherits i where i.inhrelid = c.oid)
order by c.relname
