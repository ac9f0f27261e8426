"""`densecrf-rnn explore`: a page on which sliders show what each parameter of the CRF does.

`scenes` holds what is refined, `photos` reads photographs, `scribbles` turns strokes into unaries,
and `settings` refines with what the sliders set and writes the code that gives the same labels;
`pictures` draws all that. In NiceGUI, `page` is the page itself, `controls` a slider with its box
and `drawing` the surface for strokes; `serving` runs the server.
"""
