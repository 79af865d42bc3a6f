-- How ids of the outbox are drawn: the identity kind ('a' always, 'd' by default, '' none) and the cache of its sequence.
-- No row when the table does not exist. Changes nothing.
select a.attidentity::text as kind, s.seqcache as cache
from pg_attribute a
left join pg_depend d on d.refobjid = a.attrelid and d.refobjsubid = a.attnum and d.classid = 'pg_class'::regclass
  and d.deptype in ('i', 'a')
left join pg_sequence s on s.seqrelid = d.objid
where a.attrelid = to_regclass('outbox_events') and a.attname = 'id'
order by s.seqcache nulls last
limit 1
