-- Products whose row in product_metrics is not what the committed events say. Written apart from the product's own
-- recomputation, so that one mistake cannot be in both.
with moves as (
  select (payload ->> 'productId')::bigint as product_id,
    (event_type = 'LikeAddedEvent')::int - (event_type = 'LikeRemovedEvent')::int as likes,
    (event_type = 'ProductViewEvent')::int as views, 0::bigint as sales, 0::numeric as amount
  from chaos_committed
  where event_type in ('LikeAddedEvent', 'LikeRemovedEvent', 'ProductViewEvent')
  union all
  select (line ->> 'productId')::bigint, 0, 0,
    (line ->> 'quantity')::bigint * case event_type when 'OrderCreatedEvent' then 1 else -1 end,
    (line ->> 'amount')::numeric * case event_type when 'OrderCreatedEvent' then 1 else -1 end
  from chaos_committed, jsonb_array_elements(payload -> 'items') as line
  where event_type in ('OrderCreatedEvent', 'OrderCancelledEvent')
),
wanted as (
  select product_id, sum(likes) as likes, sum(views) as views, sum(sales) as sales, sum(amount) as amount
  from moves group by product_id
)
select format('product %s: likes %s of %s, views %s of %s, sales %s of %s, amount %s of %s', product_id,
  like_count, likes, view_count, views, sales_count, sales, total_sales_amount, amount)
from wanted full join (
  -- Those above are of the topic of other producers.
  select * from product_metrics where product_id < 1000000
) as folded using (product_id)
where (like_count, view_count, sales_count, total_sales_amount) is distinct from (likes, views, sales, amount)
order by product_id
