"""The airports: their format, their number, and two whose places are known."""

import numpy as np
import pytest

from dljax import data
from dljax.data.airports import parse_airports


@pytest.mark.parametrize(
    ("table", "message"),
    [(b"iata,lat\nUIO,0\n", r"must have columns iata, lat and lon, got none called \['lon'\]"), (b"iata,lat,lon\nUIO,91,0\n", "within 90")],
)
def test_a_table_without_places_on_earth_is_refused(table, message):
    with pytest.raises(ValueError, match=message):
        parse_airports({"airports.csv": table})


def test_10_5_the_airports_are_where_they_are():
    if data.info("airports").missing:
        pytest.skip("the airports are not at hand")
    airports = data.load("airports")
    codes = airports["codes"].tolist()
    assert len(set(codes)) == len(codes) == len(airports["x"])
    np.testing.assert_allclose(np.linalg.norm(airports["x"], axis=1), 1, atol=1e-6)
    for code, latitude, longitude in (("LHR", 51.47, -0.46), ("SYD", -33.95, 151.18)):
        index = codes.index(code)
        np.testing.assert_allclose((airports["latitude"][index], airports["longitude"][index]), (latitude, longitude), atol=0.02)
