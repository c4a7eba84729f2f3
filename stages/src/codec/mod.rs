//! Audio files to PCM: containers, codecs, limits, and the checks that a file is what it says.
