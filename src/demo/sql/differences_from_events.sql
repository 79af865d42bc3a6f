-- Products whose row in product_metrics is not the fold of all events in the outbox table, computed anew.
-- Returns one bigint: how many, 0 when all agree. Reads only.
with change as (
  select
    (payload ->> 'productId')::bigint as product_id,
    case event_type when 'ProductViewEvent' then 1 else 0 end as views,
    case event_type when 'LikeAddedEvent' then 1 when 'LikeRemovedEvent' then -1 else 0 end as likes,
    0::bigint as sales,
    0::numeric as amount
  from outbox_events
  where event_type in ('ProductViewEvent', 'LikeAddedEvent', 'LikeRemovedEvent')
  union all
  select
    (line ->> 'productId')::bigint,
    0,
    0,
    case event_type when 'OrderCreatedEvent' then 1 else -1 end * (line ->> 'quantity')::bigint,
    case event_type when 'OrderCreatedEvent' then 1 else -1 end * (line ->> 'amount')::numeric
  from outbox_events
  cross join lateral jsonb_array_elements(payload -> 'items') as line
  where event_type in ('OrderCreatedEvent', 'OrderCancelledEvent')
), expected as (
  select
    product_id,
    sum(views)::bigint as view_count,
    sum(likes)::bigint as like_count,
    sum(sales)::bigint as sales_count,
    sum(amount) as total_sales_amount
  from change
  group by product_id
)
select count(*)
from expected
full join product_metrics as found using (product_id)
where (expected.view_count, expected.like_count, expected.sales_count, expected.total_sales_amount)
  is distinct from (found.view_count, found.like_count, found.sales_count, found.total_sales_amount)
