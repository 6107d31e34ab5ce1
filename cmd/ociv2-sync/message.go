package main

import "strings"

// message returns an error as one line for people: without control characters,
// which an object's name may have brought along, without the names of the packages
// that it came through and of what these called, and with nothing said twice.
func message(err error) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, err.Error())
	parts := strings.Split(text, ": ")
	last := len(parts) - 1
	said := map[string]bool{}
	var out []string
	for i, part := range parts {
		part = plain(part)
		if i < last && internal(part) || said[part] {
			continue
		}
		said[part] = true
		out = append(out, part)
	}
	return strings.Join(out, ": ")
}

// internal reports whether a part of a message says only which part of the program
// it came through, or which system call failed.
func internal(part string) bool {
	switch part {
	case "archive", "assemble", "caibx", "catalogue", "catar", "chunk", "chunkserver", "delta", "durable", "httpstore", "ingest",
		"local", "ocidest", "ocisrc", "offline", "repo", "root", "s3store", "seed", "serve", "sftpstore", "sshstore", "store",
		"stores", "toc", "transfer", "translate", "tree",
		"archive/tar", "connect", "http", "x509", "error receiving version packet from server":
		return true
	}
	for _, call := range []string{"dial tcp", "read tcp ", "write tcp ", "lookup "} {
		if strings.HasPrefix(part, call) {
			return true
		}
	}
	return false
}

// plain is a part of a message in other words where Go's are of no use.
func plain(part string) string {
	switch part {
	case "EOF", "unexpected EOF", "server unexpectedly closed connection":
		return "it ended too early"
	case "context deadline exceeded", "i/o timeout":
		return "no answer in time"
	case "context canceled":
		return "stopped"
	}
	return part
}
