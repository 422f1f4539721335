"""A FastAPI app: one route submits a clip and answers at once, another returns its status.

    pip install aivideo-sdk fastapi uvicorn
    uvicorn --app-dir examples handler:app

POST /clips {"prompt": "A paper boat"}  ->  202 {"task_id": "…", "credits": 100.0}
GET  /clips/<task_id>                   ->  200 {"status": "processing"}
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel

from aivideo import AIVideoError, CompletedTask, InvalidRequestError, Session, Sora2


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with Session() as session:  # one for the app: all handlers share its pace
        app.state.session = session
        yield


app = FastAPI(lifespan=lifespan)


class Clip(BaseModel):
    """What a caller asks for."""

    prompt: str
    duration: Literal[4, 8, 12] = 4
    aspect_ratio: Literal["16:9", "9:16"] = "16:9"


@app.post("/clips", status_code=202)
async def make_clip(clip: Clip, http: Request) -> dict[str, Any]:
    session: Session = http.app.state.session
    try:
        request = Sora2(clip.prompt, duration=clip.duration, aspect_ratio=clip.aspect_ratio)
        job = await session.submit(request)
    except InvalidRequestError as error:
        raise HTTPException(422, str(error)) from error
    except AIVideoError as error:
        raise HTTPException(502, str(error)) from error
    return {"task_id": job.task_id, "credits": float(request.credits)}


@app.get("/clips/{task_id}")
async def show_clip(task_id: str, http: Request) -> dict[str, Any]:
    session: Session = http.app.state.session
    task = session.job(task_id).task  # its last known state: no request is sent
    if task is None:
        raise HTTPException(404, "no news of this task yet")
    answer: dict[str, Any] = {"status": str(task.status)}
    if isinstance(task, CompletedTask):
        answer["url"] = task.urls[0]
    return answer
