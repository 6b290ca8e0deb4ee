// Gives the precompiled header a translation unit to be built for; the header itself is the content.
