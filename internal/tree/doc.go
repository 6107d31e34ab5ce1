// Package tree is the disk side of archives and images: it reads directory
// trees with all their metadata, encodes them as casync does, and writes them.
//
// Everything happens relative to open directories, one path component at a
// time, and no symbolic link below the directory that the caller opened is ever
// followed: whatever a tree or an archive contains, nothing outside it is read
// or changed. Attributes are set in an order that never gives a half-written
// file more rights than it ends with: owner, xattrs and ACLs, mode, times.
package tree
