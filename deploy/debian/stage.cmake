# Run by CPack on the tree that becomes the package: what Debian has in other places than others, or
# wants compressed.
set(tree "${CPACK_TEMPORARY_INSTALL_DIRECTORY}")
set(deploy "@CMAKE_SOURCE_DIR@/deploy")
set(made "@CMAKE_BINARY_DIR@/debian")
set(FILE_MODE OWNER_READ OWNER_WRITE GROUP_READ WORLD_READ)

function(put from to)
    get_filename_component(folder "${tree}/${to}" DIRECTORY)
    file(MAKE_DIRECTORY "${folder}")
    configure_file("${from}" "${tree}/${to}" COPYONLY)
    file(CHMOD "${tree}/${to}" PERMISSIONS ${FILE_MODE})
endfunction()

file(REMOVE_RECURSE "${tree}/usr/lib/systemd")
put("${made}/cairnd.service" lib/systemd/system/cairnd.service)
put("${deploy}/cairn.yaml" etc/cairn/cairn.yaml)
put("${deploy}/cairn.logrotate" etc/logrotate.d/cairn)
put("${deploy}/debian/copyright" usr/share/doc/cairn/copyright)
put("${made}/changelog" usr/share/doc/cairn/changelog.Debian)

file(GLOB compressed "${tree}/usr/share/man/man[1-8]/*.[1-8]")
execute_process(COMMAND gzip -9nf ${compressed} "${tree}/usr/share/doc/cairn/changelog.Debian"
                COMMAND_ERROR_IS_FATAL ANY)
