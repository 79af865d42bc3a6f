-- A parked event was folded. $1 text: group. $2 uuid: event id.
delete from consumer_parked where consumer_group = $1 and event_id = $2
