-- Rows that are marked, and the seconds between the first and the last one; none is before the contender begins.
-- Changes nothing.
select count(*), coalesce(extract(epoch from max(published_at) - min(published_at)), 0)::float8
from outbox_events
where status = 'PUBLISHED'
