"""Pages for a browser."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse

router = APIRouter(include_in_schema=False)


@router.get("/v1/docs")
async def docs() -> HTMLResponse:
    """Swagger UI from the files that BentoML brings, since a closed network has no CDN."""
    return get_swagger_ui_html(
        openapi_url="/v1/openapi.json",
        title="MixLLM",
        swagger_js_url="/static_content/swagger-ui-bundle.js",
        swagger_css_url="/static_content/swagger-ui.css",
        swagger_favicon_url="/static_content/favicon-light-32x32.png",
    )


@router.get("/")
async def index() -> RedirectResponse:
    return RedirectResponse("/v1/docs")
