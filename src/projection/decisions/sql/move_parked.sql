-- Gives the parked events of one group to another. $1 text: from. $2 text: to. One that the other group has parked
-- itself stays where it is.
update consumer_parked k set consumer_group = $2
where consumer_group = $1
  and not exists (
    select 1 from consumer_parked own
    where own.consumer_group = $2 and own.event_id = k.event_id and own.projection is not distinct from k.projection
  )
