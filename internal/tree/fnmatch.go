package tree

import "strings"

// fnmatch reports whether a name matches a shell pattern as fnmatch(3) has it
// with FNM_PERIOD in the C locale: "*", "?", bracket expressions and backslash
// escapes; a leading period is matched only by a period.
func fnmatch(pattern, name string) bool {
	if strings.HasPrefix(name, ".") && !strings.HasPrefix(pattern, ".") && !strings.HasPrefix(pattern, `\.`) {
		return false
	}
	// star and mark are where to go on when a guess of what the last "*"
	// stands for was wrong.
	p, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, n
			p++
			continue
		}
		if p < len(pattern) {
			if size, ok := matchOne(pattern[p:], name[n]); ok {
				p, n = p+size, n+1
				continue
			}
		}
		if star < 0 {
			return false
		}
		mark++
		p, n = star+1, mark
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchOne matches one byte against the first element of a pattern, and returns
// that element's length.
func matchOne(pattern string, c byte) (size int, ok bool) {
	switch pattern[0] {
	case '?':
		return 1, true
	case '\\':
		if len(pattern) < 2 {
			return 1, false // nothing matches a lone backslash
		}
		return 2, pattern[1] == c
	case '[':
		if size, ok, closed := matchBracket(pattern, c); closed {
			return size, ok
		}
	}
	return 1, pattern[0] == c
}

// matchBracket matches a byte against a bracket expression. closed is false if
// the bracket stands for itself because nothing closes it.
func matchBracket(pattern string, c byte) (size int, ok, closed bool) {
	i := 1
	negate := i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^')
	if negate {
		i++
	}
	valid := true
	for first := true; i < len(pattern); first = false {
		if pattern[i] == ']' && !first {
			return i + 1, valid && ok != negate, true
		}
		if class, n := enclosed(pattern[i:], ':'); n > 0 {
			in, known := inClass(class, c)
			ok, valid = ok || in, valid && known
			i += n
			continue
		}
		if same, n := enclosed(pattern[i:], '='); n > 0 {
			ok, valid = ok || same == string([]byte{c}), valid && len(same) == 1
			i += n
			continue
		}
		lo, n := bracketByte(pattern[i:])
		i += n
		hi := lo
		if i+1 < len(pattern) && pattern[i] == '-' && pattern[i+1] != ']' {
			hi, n = bracketByte(pattern[i+1:])
			i += 1 + n
		}
		valid = valid && lo >= 0 && hi >= 0
		ok = ok || lo <= int(c) && int(c) <= hi
	}
	return 0, false, false
}

// bracketByte returns the byte that begins a bracket expression's rest, which
// may be escaped or a collating symbol, and how long it is written. A symbol
// that is no single byte is -1.
func bracketByte(s string) (b, size int) {
	if symbol, n := enclosed(s, '.'); n > 0 {
		if len(symbol) != 1 {
			return -1, n
		}
		return int(symbol[0]), n
	}
	if s[0] == '\\' && len(s) > 1 {
		return int(s[1]), 2
	}
	return int(s[0]), 1
}

// enclosed returns what stands in s between "[" with a mark and the mark with
// "]", as alpha does in "[:alpha:]", and the length of all. The length is 0 if
// s does not begin so.
func enclosed(s string, mark byte) (inner string, size int) {
	if len(s) < 2 || s[0] != '[' || s[1] != mark {
		return "", 0
	}
	inner, _, ok := strings.Cut(s[2:], string([]byte{mark, ']'}))
	if !ok {
		return "", 0
	}
	return inner, len(inner) + 4
}

// inClass reports whether a byte is in a named class, and whether there is one.
func inClass(class string, c byte) (in, known bool) {
	lower, upper, digit := 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9'
	switch class {
	case "alpha":
		return lower || upper, true
	case "lower":
		return lower, true
	case "upper":
		return upper, true
	case "digit":
		return digit, true
	case "alnum":
		return lower || upper || digit, true
	case "xdigit":
		return digit || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F', true
	case "space":
		return c == ' ' || '\t' <= c && c <= '\r', true
	case "blank":
		return c == ' ' || c == '\t', true
	case "punct":
		return '!' <= c && c <= '~' && !lower && !upper && !digit, true
	case "print":
		return ' ' <= c && c <= '~', true
	case "graph":
		return '!' <= c && c <= '~', true
	case "cntrl":
		return c < ' ' || c == 0x7f, true
	}
	return false, false
}
