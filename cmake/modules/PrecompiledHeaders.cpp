// The translation unit that the precompiled header is built for; the header is the content.
