-- How ids of the outbox are drawn: the identity kind ('a' always, 'd' by default, '' none), its sequence, whether other
-- columns draw from it too, the last id drawn (null where this role may not know) and the highest one in the table,
-- without those out of range. No row when the table does not exist. Changes nothing.
select a.attidentity::text as kind, d.objid is not null as has_sequence, s.seqcache as cache, s.seqincrement as increment, s.seqcycle as cycles,
  pg_sequence_last_value(s.seqrelid) as last_id, (select max(id) from outbox_events where id <= 4611686018427387904) as highest_id,
  exists (
    select 1 from pg_depend o
    where o.refclassid = 'pg_class'::regclass and o.refobjid = s.seqrelid and o.classid = 'pg_attrdef'::regclass) as shared
from pg_attribute a
left join pg_depend d on d.refobjid = a.attrelid and d.refobjsubid = a.attnum and d.classid = 'pg_class'::regclass
  and d.refclassid = 'pg_class'::regclass and d.deptype in ('i', 'a')
left join pg_sequence s on s.seqrelid = d.objid
where a.attrelid = to_regclass('outbox_events') and a.attname = 'id'
order by s.seqcache nulls last
limit 1
