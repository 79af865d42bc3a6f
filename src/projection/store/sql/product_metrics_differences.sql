-- Compares product_metrics with a recomputation from the published rows of the outbox, each event once, without those
-- that the group has parked. $1 text: group. Returns product_id, folded, expected (text; null where a side has no row)
-- of the products that differ. Reads only. Reads the whole outbox: for demos and tests.
with published as (
  select distinct on (event_id) event_id, event_type, payload
  from outbox_events
  where status = 'PUBLISHED'
    and event_type in ('LikeAddedEvent', 'LikeRemovedEvent', 'ProductViewEvent', 'OrderCreatedEvent', 'OrderCancelledEvent')
    and not exists (
      select 1 from consumer_parked where consumer_group = $1 and consumer_parked.event_id = outbox_events.event_id
    )
),
effects as (
  select
    (payload ->> 'productId')::bigint as product_id,
    case event_type when 'LikeAddedEvent' then 1 when 'LikeRemovedEvent' then -1 else 0 end as likes,
    case event_type when 'ProductViewEvent' then 1 else 0 end as views,
    0::bigint as sales,
    0::numeric as amount
  from published
  where event_type in ('LikeAddedEvent', 'LikeRemovedEvent', 'ProductViewEvent')
  union all
  select
    (item ->> 'productId')::bigint,
    0,
    0,
    (item ->> 'quantity')::bigint * side.sign,
    (item ->> 'amount')::numeric * side.sign
  from published
  cross join lateral (select case event_type when 'OrderCancelledEvent' then -1 else 1 end as sign) as side
  cross join lateral jsonb_array_elements(payload -> 'items') as item
  where event_type in ('OrderCreatedEvent', 'OrderCancelledEvent')
),
expected as (
  select
    product_id,
    concat_ws(' ', 'likes', sum(likes), 'views', sum(views), 'sales', sum(sales), 'amount', trim_scale(sum(amount))) as counts
  from effects
  group by product_id
),
folded as (
  select
    product_id,
    concat_ws(
      ' ', 'likes', like_count, 'views', view_count, 'sales', sales_count, 'amount', trim_scale(total_sales_amount)
    ) as counts
  from product_metrics
)
select product_id, folded.counts as folded, expected.counts as expected
from expected
full join folded using (product_id)
where folded.counts is distinct from expected.counts
order by product_id
