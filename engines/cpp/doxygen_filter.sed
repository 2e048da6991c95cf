# The headers' plain comments as doxygen wants them: sed -E -f, a line at a time.
s#^( *)// ?#\1/// #
s#^(.*[;,{}]) +// #\1 ///< #
s#^( *)/\* #\1/** #
s#^(.*[;,]|.*= [0-9]+) +/\* #\1 /**< #
