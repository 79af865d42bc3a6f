-- How many pages event_handled has, and the file they are in: another file means that every row has another place.
-- Changes nothing.
select pg_relation_size('event_handled') / current_setting('block_size')::bigint as pages,
  coalesce(pg_relation_filenode('event_handled'), 0)::bigint as file
