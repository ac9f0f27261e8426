"""`densecrf-rnn explore`: a page on which sliders show what each parameter of the CRF does.

`scenes` holds what is refined, `settings` what the sliders set and the code that repeats it,
`pictures` draws, `scribbles` turns strokes into unaries, and `page` is the page itself, in NiceGUI.
"""
