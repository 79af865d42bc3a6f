-- The indexes that can serve the claim: on (shard, id), of PENDING rows only. Changes nothing.
select c.relname::text as name, i.indisvalid and i.indisready as usable
from pg_index i
join pg_class c on c.oid = i.indexrelid
where i.indrelid = to_regclass('outbox_events')
  and pg_get_indexdef(i.indexrelid, 1, true) = 'shard'
  and pg_get_indexdef(i.indexrelid, 2, true) = 'id'
  and pg_get_expr(i.indpred, i.indrelid) like '%PENDING%'
