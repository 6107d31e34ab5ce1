// Package translate is the way between OCI images and trees.
//
// Merge reads the layers of an image from a Source and gives the filesystem they
// make, in the canonical form of a TOC. Layers are applied with the rules of
// umoci: names resolve as inside a chroot; a whiteout spares what its own layer
// has put in place, wherever it comes in the layer; an entry replaces what is
// there, except that a directory over a directory only brings new metadata; hard
// links share the inode that their target has when they come. What differs from
// umoci:
//
//   - Directories and a root that no entry describes get mode 0755, owner 0:0 and
//     time 0; umoci gives them the time and umask of the unpacking.
//   - A hard link that comes before its target in the layer is made when the
//     layer is complete.
//   - Empty xattrs and those that only libarchive's PAX records hold are kept.
//   - GNU sparse files, contiguous files and global PAX headers that change no
//     entry are read. ACLs count when they are xattrs, not as the text in
//     SCHILY.acl.* records.
//   - Names that climb above the root, entries below a whiteout and whiteouts
//     without a name are errors.
//
// Layers are hostile until shown otherwise: every allocation is bounded by what
// was read and by Limits, nothing is returned before all digests have matched,
// and contents lie in a file without a name, never under theirs.
//
// The other half of the package is the image's manifest in a repository
// (docs/format/repository.md).
package translate
