from cluster.serve.quotas import Quotas


def test_bucket_empties_refills_and_never_holds_more_than_a_minute() -> None:
    now = [100.0]
    quotas = Quotas(clock=lambda: now[0])
    assert [quotas.wait_s("a", 6) for _ in range(7)] == [None] * 6 + [10]
    now[0] += 4
    assert quotas.wait_s("a", 6) == 6
    assert quotas.wait_s("b", 6) is None
    now[0] += 6
    assert quotas.wait_s("a", 6) is None
    assert quotas.wait_s("a", 6) == 10
    now[0] += 3600
    assert [quotas.wait_s("a", 6) for _ in range(7)] == [None] * 6 + [10]
    assert quotas.wait_s("c", None) is None
