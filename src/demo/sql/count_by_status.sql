-- How many events are in which state. Returns status text, events bigint. Reads only.
select status, count(*) as events
from outbox_events
group by status
order by status
