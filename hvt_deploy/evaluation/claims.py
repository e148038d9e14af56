"""When a latency, a speed-up, a drop or a change of one may be claimed: the one place that gates,
columns, sentences, plots and `diff` ask.

A single latency needs a median that settled, processors that others left alone, and a GPU whose
clock stood still unthrottled. The ratio of two latencies of one run is paired, window by window:
what slows both alike cancels. It needs two medians that settled on such processors; where the GPU
ran them at different clocks it stands, but is marked and passes no gate.
"""

from __future__ import annotations

from hvt_deploy.evaluation.record import DropOutcome, SpeedOutcome
from hvt_deploy.evaluation.scores import Fault, GpuState, Interval, Latency, Timing

# Two sessions of one and the same ONNX file differed by up to 4 % (memory layout): less is no
# difference.
SAME_SPEED_MARGIN = 0.04
# Of the CPUs. On a quiet machine it is below 0.02. With two threads on two cores, 0.36 halved a
# stable speed-up and 0.50 doubled another: all threads wait for the one whose processor is taken,
# more often in one runtime than in the other.
MOST_OTHERS_SHARE = 0.05
# Of the SM clock, in percent.
MOST_CLOCK_MOVEMENT = 3.0
_LOCK = "nvidia-smi --lock-gpu-clocks"
_UNSETTLED = "{} never became stable: is there other work on this machine?"


def find_latency_fault(latency: Latency) -> str:
    """Why a latency by itself proves nothing; empty where it may."""
    if not latency.stable:
        return _UNSETTLED.format("The median")
    if load := _find_load(latency):
        return load
    state = latency.gpu.state if latency.gpu else None
    return _find_clock_fault(state) if state else ""


def find_ratio_fault(reference: Latency, candidate: Latency) -> Fault | None:
    """Why the ratio of two latencies of one run proves nothing or passes no gate; None where it
    may.
    """
    if not candidate.stable:
        return Fault("not proven", _UNSETTLED.format("The median"))
    if not reference.stable:
        return Fault("not proven", _UNSETTLED.format("The median that it is compared with"))
    if load := _find_load(candidate) or _find_load(reference):
        return Fault("not proven", load)
    states = [latency.gpu.state for latency in (reference, candidate) if latency.gpu]
    clocks = [state.median_sm_mhz for state in states if state]
    if len(clocks) == 2 and _apart(*clocks) > MOST_CLOCK_MOVEMENT:
        why = f"The GPU ran at {clocks[0]} and {clocks[1]} MHz: {_apart(*clocks):.1f} % apart"
        return Fault("at the power limit", f"{why}, {MOST_CLOCK_MOVEMENT:g} % are allowed.")
    return None


def judge_ratio(ratio: Interval | None, fault: Fault | None) -> SpeedOutcome:
    """Faster or slower by more than two sessions of one file may differ, or no difference, each
    only where the whole interval says so.
    """
    if ratio is None or (fault is not None and fault.mark == "not proven"):
        return "not proven"
    fast, slow = 1 + SAME_SPEED_MARGIN, 1 - SAME_SPEED_MARGIN
    if ratio.low > fast:
        return "faster"
    if ratio.high < slow:
        return "slower"
    return "no difference" if slow <= ratio.low and ratio.high <= fast else "not proven"


def judge_drop(points: Interval, margin: float) -> DropOutcome:
    """Equal where the whole interval (points, positive is worse) is inside the margin, else worse
    or better where it is on one side of 0.
    """
    if -margin <= points.low and points.high <= margin:
        return "equal"
    if points.low > 0:
        return "worse"
    return "better" if points.high < 0 else "not proven"


def compare_speedups(before: Timing, after: Timing) -> tuple[Interval | None, str]:
    """The speed-up of a later run over that of an earlier one, and why it proves nothing (empty
    where it may). Both are over the reference of their run: the machine's speed that day cancels.
    """
    was, now = before.speedup, after.speedup
    if was is None or now is None:
        return None, "It has no speed-up."
    if before.speedup_over != after.speedup_over:
        why = f"It is over {before.speedup_over}, then over {after.speedup_over}."
    else:
        faults = (timing.speedup_fault for timing in (before, after))
        why = next((fault.why for fault in faults if fault), "")
    change = Interval(now.estimate / was.estimate, now.low / was.high, now.high / was.low)
    return change, why


def _find_load(latency: Latency) -> str:
    others = latency.others_share or 0.0
    if others <= MOST_OTHERS_SHARE:
        return ""
    return f"Other processes had {others:.0%} of the CPUs meanwhile."


def _find_clock_fault(state: GpuState) -> str:
    low, high = state.sm_mhz
    moved = 100 * (1 - low / high) if high else 0.0
    reasons = ", ".join(state.throttling)
    if moved > MOST_CLOCK_MOVEMENT:
        because = f", because of: {reasons}" if reasons else ""
        found = (
            f"moved by {moved:.1f} % ({low} to {high} MHz), {MOST_CLOCK_MOVEMENT:g} % are "
            f"allowed{because}"
        )
    elif reasons:
        found = f"was held at {high} MHz by: {reasons}"
    else:
        return ""
    return f"The clock of {state.name} {found}. Lock one that it can hold: {_LOCK}"


def _apart(a_mhz: float, b_mhz: float) -> float:
    """In percent of the higher one."""
    return 100 * (1 - min(a_mhz, b_mhz) / max(a_mhz, b_mhz, 1))
