# The Debian package: cmake --build --preset release --target package
set(CAIRN_MAINTAINER "cairn maintainers <maintainers@cairn.example>" CACHE STRING "of the Debian package: Name <address>")
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME cairn)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "content store for containerd, filled by peers and ahead of time")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION "\
containerd uses cairnd as its content store: every blob of an image is on the
disk once, stays there when the image is removed, and comes from other nodes
where one has it. cairnctl shows what is kept and why, gets images before they
are needed, and rolls back to versions that are still there.")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_MAINTAINER "${CAIRN_MAINTAINER}")
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "init-system-helpers (>= 1.54~)")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "ca-certificates, containerd, logrotate")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS bash-completion)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(debian ${CMAKE_CURRENT_LIST_DIR})
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
    ${debian}/conffiles ${debian}/postinst ${debian}/prerm ${debian}/postrm)

# What only a package has is put beside what was installed, by stage.cmake.
set(SBINDIR /usr/sbin)
configure_file(${CMAKE_SOURCE_DIR}/deploy/cairnd.service.in debian/cairnd.service @ONLY)
configure_file(${debian}/changelog.in debian/changelog @ONLY)
configure_file(${debian}/stage.cmake debian/stage.cmake @ONLY)
set(CPACK_PRE_BUILD_SCRIPTS ${CMAKE_BINARY_DIR}/debian/stage.cmake)
include(CPack)
