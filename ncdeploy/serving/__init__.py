"""Serving: one engine for many requests, whose rows share its calls.

    job        what one request asks for, and what becomes of it
    pool       samples of one plan that come and go while their windows slide: the parallel driver, opened
    pace       how many nodes of each sample a call should hold, by t(B) and by what was seen of the plan
    observed   t(B), corrected by what calls take
    call       rows of all pools as one network call; what is not finite is told per sample
    scheduler  the loop: one tick is one call
    server     the same for asyncio, in a thread of its own
    protocol   requests and answers of the Open Inference Protocol v2, JSON and binary
    web        HTTP: that protocol, metrics, and the page for people

A row has its own sigma, so that whatever the plans, steps, seeds, windows and conditions of two requests, their rows
fit in one call.
"""
