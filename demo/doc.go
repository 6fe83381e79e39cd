// Package demo shows svcproxy's main job, with real packets and real tools, in a network that nobody
// else sees: a node, pods, Services from manifests, and the proxy between them. It checks what it shows.
package demo
