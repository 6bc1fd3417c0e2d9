"""The API as most teams write it: FastAPI and PostgreSQL. An order and its first event are one transaction."""
import json
import os
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel


class Purchase(BaseModel):
    orderId: str
    customerId: str
    items: list[dict]


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.pool = await asyncpg.create_pool(os.environ["PEER_DSN"], min_size=32, max_size=32)
    yield
    await app.state.pool.close()


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=202)
async def submit(order: Purchase):
    async with app.state.pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO orders (id, status, data) VALUES ($1, 'RECEIVED', $2)", order.orderId, json.dumps(order.model_dump())
        )
        await connection.execute("INSERT INTO events (order_id, status) VALUES ($1, 'RECEIVED')", order.orderId)
    return {"orderId": order.orderId, "status": "RECEIVED"}


@app.get("/orders/{order_id}")
async def get(order_id: str):
    row = await app.state.pool.fetchrow("SELECT id, status FROM orders WHERE id = $1", order_id)
    if row is None:
        raise HTTPException(404)
    return {"orderId": row["id"], "status": row["status"]}
