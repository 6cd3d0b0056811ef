"""Where the world's airports are: a real set of points on the sphere."""

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np


def parse_airports(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The airports that have a code of the International Air Transport Association, in the order of the file.

    Returns:
      `codes`, strings [N], each once; `latitude` and `longitude` [N], degrees; `x` float32 [N, 3], the same places as unit vectors, the third
      coordinate towards the north pole and the first towards 0° N 0° E.
    Raises:
      ValueError: a table without the columns iata, lat and lon; a place that is not on earth.

    >>> table = b'"icao","iata","lat","lon"\\n"EGRR","",1,2\\n"SEQU","UIO",0,-90\\n'
    >>> parsed = parse_airports({"airports.csv": table})
    >>> parsed["codes"].tolist(), parsed["x"].round(4).tolist()
    (['UIO'], [[0.0, -1.0, 0.0]])
    """
    (content,) = files.values()
    rows = csv.DictReader(io.StringIO(content.decode("utf-8")))
    if missing := {"iata", "lat", "lon"} - set(rows.fieldnames or ()):
        raise ValueError(f"airports: the table must have columns iata, lat and lon, got none called {sorted(missing)}")
    chosen = {row["iata"]: (float(row["lat"]), float(row["lon"])) for row in rows if row["iata"]}
    places = np.array(list(chosen.values()), np.float64).reshape(-1, 2)
    if not (np.abs(places) <= (90, 180)).all():
        raise ValueError("airports: latitudes must be within 90 and longitudes within 180 degrees")
    latitude, longitude = np.radians(places).T
    x = np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], -1)
    return {"codes": np.array(list(chosen)), "latitude": places[:, 0], "longitude": places[:, 1], "x": x.astype(np.float32)}
